"""Shows what was measured and planned: pure figures and one self-contained HTML report."""

"""Claims about backends, judged by rules on what was measured, looked up or is physics."""

"""What users do: prompts, lengths, think time, arrivals."""

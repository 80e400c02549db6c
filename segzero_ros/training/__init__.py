"""Training of reasoners: rewards, training rows, GRPO and SFT; `mini/` trains one from scratch."""

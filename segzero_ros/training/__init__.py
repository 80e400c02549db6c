"""Making a reasoner better: rewards, training rows, the trainer; `mini/` makes one from zero."""

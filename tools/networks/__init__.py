"""What the sweep over networks looks at."""

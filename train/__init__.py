"""Training: recipes, losses and the data they read."""

"""Click-through models, and how they are trained and served."""

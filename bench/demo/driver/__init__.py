"""What the demo does with the site: serve it, visit it, put it under load, report."""

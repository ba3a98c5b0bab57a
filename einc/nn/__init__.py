"""What runs with torch."""

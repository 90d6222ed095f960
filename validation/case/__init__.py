"""What is compared and under which layout: pure data. Nothing here imports torch."""

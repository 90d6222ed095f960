"""From what people train with to a case: recipes, their stand-ins, combinations of switches. Nothing here imports torch."""

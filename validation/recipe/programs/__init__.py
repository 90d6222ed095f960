"""Stand-ins for the programs of a launch script: they run in processes of their own."""

"""What people train with: a launch script or a configuration, read into settings, model and layout. No torch."""

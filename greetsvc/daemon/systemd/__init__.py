"""What a service manager hands over and is told: sockets, readiness, units."""

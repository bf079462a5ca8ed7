"""TLS listeners that reload their certificates, and reading of PEM files."""

"""The admin site: health, metrics, events and the live page. It reads `Figures`, and changes nothing."""

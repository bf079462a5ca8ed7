"""Reports of results: text, JSON Lines, a monitoring line, or drawn on a terminal; and likely causes of failures."""

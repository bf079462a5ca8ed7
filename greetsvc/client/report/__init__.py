"""How results are reported: as text, JSON Lines, one monitoring line, or drawn on a terminal; with likely causes."""

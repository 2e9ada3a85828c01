"""Files of a site: conditions, ranges, encodings, listings; nothing outside of the root."""

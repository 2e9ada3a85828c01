"""The epoch table: the keys derived from it, its file, and its encrypted backup."""

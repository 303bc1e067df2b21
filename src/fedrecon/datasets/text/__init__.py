"""Text by writer: JSON Lines, Parquet, SQLite and folders, tokenizers, vocabularies, generated text."""

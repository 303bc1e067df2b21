"""Next-word prediction: a client is a writer, with words of its own."""

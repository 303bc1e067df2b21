"""Next-word models: an LSTM and a Transformer, their metrics, and the completion of a prompt."""

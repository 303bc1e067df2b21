"""What an algorithm is made of: models, partitions, examples and splits, means, random keys and views."""

"""Files of any kind: complete writes, hashes, texts and weights of users, and formats that are refused."""

"""Reward models: what they are by their files, how texts reach them, and the engines that run them."""

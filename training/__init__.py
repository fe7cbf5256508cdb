"""Training stages on TRL's trainers: SFT, reward models, DPO, RPO and merging. Never imports `factory`.

What a stage reads is a data set on disk in the formats of docs/data.md; what it leaves is a model folder.
"""

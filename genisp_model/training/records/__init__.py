"""What a run leaves and says: its folder, its tables, lines for the user.

- `run_folder`: what a run writes, in files people already know how to read. Its checkpoints are
  `genisp_model.checkpoint`: evaluation, enhance and export read them too.
- `run_lock`, `run_log`: its one writer, and its tables.
- `report`: what a step and an epoch tell: rows of the tables, lines for the user.
- `pace`: how fast a run goes, and when it will end.
- `environment`: where a run runs: machine, versions, commit.
- `config_toml`: the run's options as ``--config`` reads them.
"""

"""The papers' baselines: item encoders, user encoders, objectives, one training loop, full-catalogue evaluation."""

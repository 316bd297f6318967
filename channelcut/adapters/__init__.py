"""Other people's ecosystems: what loads, trains, evaluates and saves a cut network the way they do it."""

"""The data that flows between the stages: frozen values, no behaviour that needs a stage."""

"""Next-token modelling on the shared memory cores: corpora, lanes, the model, its trainer, evaluation, generation."""

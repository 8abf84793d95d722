"""Speech as next-sample modelling: waveforms, quantisers, data sets, corpora of clips, and what lets them be heard."""

"""Speech as next-sample modelling: waveforms, data sets, corpora of clips, listening, and the WaveNet core."""

"""Speech as next-sample modelling: waveforms, data sets, corpora of clips, audio samples, and the WaveNet core."""

"""Speech: waveforms, their datasets, and WaveNet, the baseline that has no memory beyond its receptive field."""

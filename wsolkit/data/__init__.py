"""Data: one table of data sets, their readers, and the images, boxes and masks that they become. No torch on import."""

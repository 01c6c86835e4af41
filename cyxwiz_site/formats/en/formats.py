"""In English, which is all that there is."""

DATETIME_FORMAT = "Y-m-d H:i:s"  # events of one second have to be told apart

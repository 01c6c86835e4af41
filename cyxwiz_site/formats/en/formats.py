DATETIME_FORMAT = "Y-m-d H:i:s"  # events of one second have to be told apart

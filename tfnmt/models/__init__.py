"""Translation models: functions of named views of one parameter vector."""

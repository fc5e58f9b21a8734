"""The definitions of stage, instance, setting, counts and runtime, without any concrete stage."""

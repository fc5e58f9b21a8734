"""What a stage, an instance, a setting, a count and a runtime are, without any concrete stage."""

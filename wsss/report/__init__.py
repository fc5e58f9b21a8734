"""What a person is shown: tables, settings, layers, pictures."""

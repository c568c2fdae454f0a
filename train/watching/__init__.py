"""What a person sees of a run: its journal, pictures, curves and where they are shown."""

"""Policy files to the Hugging Face hub, with a model card made from them, and back."""

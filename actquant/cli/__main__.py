from actquant.cli import app

app(prog_name="actquant")

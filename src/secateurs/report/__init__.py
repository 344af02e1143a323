"""Reports: result dataclasses in, one page for a browser, images and JSON out. No model is in sight here."""

"""How is it looked at? Reports, pages, readings and exports."""

# Run once in each new kernel of R: pictures need no display, and tables come as data besides.
options(bitmapType = "cairo", menu.graphics = FALSE, browser = "false")

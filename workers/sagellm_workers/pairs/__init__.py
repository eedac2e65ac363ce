"""Two engines that hold one request at the same time: one reads the prompt, the other answers, as SGLang's do."""

package main

func (g *gen) quantize() {}

#include "textflag.h"

// func pause()
// Tells the core that this is a loop that waits: eight times YIELD, since most
// cores take one for a NOP.
TEXT ·pause(SB), NOSPLIT, $0-0
	YIELD
	YIELD
	YIELD
	YIELD
	YIELD
	YIELD
	YIELD
	YIELD
	RET

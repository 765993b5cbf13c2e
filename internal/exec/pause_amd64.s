#include "textflag.h"

// func pause()
// Tells the core that this is a loop that waits.
TEXT ·pause(SB), NOSPLIT, $0-0
	PAUSE
	RET

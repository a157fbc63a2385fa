/* The subcommands of `tepal`: each gets its own arguments, with its name first, and returns the exit status. */
#ifndef TOOLS_TOOLS_H
#define TOOLS_TOOLS_H

int echo_main(int argument_count, char **arguments);
int load_main(int argument_count, char **arguments);
int cert_main(int argument_count, char **arguments);

#endif

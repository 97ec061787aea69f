"""What every HTTP endpoint shares: declarations, parameters, bodies, responses and the error table."""

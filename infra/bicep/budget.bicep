// A budget of the resource group. Azure sends messages; it stops nothing.

@description('Name of the budget.')
param name string

@description('USD a month, in the currency of the subscription.')
param amount int

@description('First day of the month in which the budget begins, as 2026-12-01.')
param start string

@description('E-mail address that gets the messages.')
param email string

resource budget 'Microsoft.Consumption/budgets@2026-06-01' = {
  name: name
  properties: {
    category: 'Cost'
    amount: amount
    timeGrain: 'Monthly'
    timePeriod: {
      startDate: '${start}T00:00:00Z'
    }
    notifications: {
      nearlySpent: {
        enabled: true
        operator: 'GreaterThanOrEqualTo'
        threshold: 80
        thresholdType: 'Actual'
        contactEmails: [email]
      }
      willBeExceeded: {
        enabled: true
        operator: 'GreaterThan'
        threshold: 100
        thresholdType: 'Forecasted'
        contactEmails: [email]
      }
    }
  }
}
